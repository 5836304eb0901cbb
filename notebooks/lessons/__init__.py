"""What only the notebooks need: figures, and exercises with checks that name the mistake."""
