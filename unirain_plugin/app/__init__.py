"""The app: restore an image in the browser. Stands on top of ``inference``; nothing imports it but its command."""
