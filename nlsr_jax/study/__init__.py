"""Studies: worlds, training stages, exams, defenses and repairs on equal terms."""
