"""What the pages say: tables, pictures, and the page about accuracy."""
