"""A stand-in for OpenRouter and Gemini over real HTTP, for the demo, the system tests and benchmarks.

It takes calls (`app`), admits them (`limits`), writes them down (`record`), decides how to behave (`script`), answers
in the provider's form (`openrouter`, `gemini`) and makes the faults on the wire (`delivery`). `client` starts it and
drives it.
"""
