"""The content of the pages: tables, pictures, and the page about accuracy."""
