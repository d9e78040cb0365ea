"""honed: serves your own chat model behind the OpenAI API, and makes it better with what its users ask."""
