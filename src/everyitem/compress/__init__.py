"""What can be left out? Item codes."""
