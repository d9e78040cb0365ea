"""HTTP: the OpenAI API in front of the engine. Imports `honed.models` and nothing else of ours."""
