"""A class: editions of the notebooks for students, and what the students hand in, judged apart from their code."""
