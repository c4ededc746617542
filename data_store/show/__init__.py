"""One chain for people: its alignment, conservation and co-evolution beside its structure, as text and as a picture."""
