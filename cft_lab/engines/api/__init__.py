"""Any server that speaks the OpenAI API, as an engine."""
