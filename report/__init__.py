"""A blend's figures and pictures: table, contact sheet, and one self-contained HTML page."""
