"""The plan on disk: schema, header, constants."""
