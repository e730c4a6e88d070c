"""What a command makes of a model, a picture and a question: where the prompt is, its frames, its turns."""
