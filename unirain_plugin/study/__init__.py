"""Studies that back the project's claims: reproduction, benchmarks, demo. Stands on top."""
