"""Watch one frame, take one decision: the engine room."""
