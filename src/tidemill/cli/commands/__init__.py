"""The commands, a module for each noun; main.py names them."""
