"""What all pages share: base template, style, charts, pictures, and numbers for people."""
