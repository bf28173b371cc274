"""How the site is made: tables, figures, pages of the reference and of notebooks."""
