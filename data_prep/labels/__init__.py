"""Label matrices: from files and tables to class indices."""
