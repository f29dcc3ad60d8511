"""One folder an engine; each imports its heavy library only when it is used."""
