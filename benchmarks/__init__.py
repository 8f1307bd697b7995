"""How fast and how accurate SEIGH Lab is beside the codes that exist; see README.md."""
