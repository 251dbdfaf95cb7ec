"""What commands print: tables, facts and cells."""
