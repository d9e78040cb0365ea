"""honed: serves your own chat model behind the OpenAI API."""
