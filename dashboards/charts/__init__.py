"""Charts as plain Plotly figures with the table that they show: pure functions of records and histories."""
