"""What a killed training needs to go on exactly: written, checked, kept, restored."""
