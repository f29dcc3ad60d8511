"""A day of simulated traffic over real recorded queries and real models' answers."""
