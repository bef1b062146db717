"""One page for operators: the state of `console.state`, drawn on the server and live. `python -m console.web`."""
