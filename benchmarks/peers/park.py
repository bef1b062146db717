"""Enqueues requests that are to be tried later, as a retry with that delay does.

python park.py dramatiq|celery COUNT SECONDS REQUEST_ID
"""

import importlib
import json
import sys

park = importlib.import_module(f"{sys.argv[1]}_worker").park
for number in range(int(sys.argv[2])):
    park(json.dumps({"request_id": f"{sys.argv[4]}-{number}", "prompt": "What is a queue for?" * 10}), int(sys.argv[3]))
