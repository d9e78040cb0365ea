"""The request, response, chunk and error types of the OpenAI API (pydantic), and nothing else."""
