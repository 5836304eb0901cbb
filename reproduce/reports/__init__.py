"""What a sweep found, beside what was claimed: text, tables, figures and pages."""
