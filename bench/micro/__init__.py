"""One operation at a time, pure against compiled on the same bytes."""
