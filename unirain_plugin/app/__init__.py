"""The app: restore a picture in the browser. Stands on top of ``inference``; nothing imports it but its command."""
