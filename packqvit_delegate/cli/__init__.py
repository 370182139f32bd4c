"""The command `packqvit`: one file a command. What takes long to import is imported when a command has work for it."""
