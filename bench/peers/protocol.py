"""The line protocol of a peer: one JSON request per line on stdin, one JSON answer per line on stdout.

{"do": "open", "case": …, "kind": …, "settings": {…}}   → {"ok": true}
{"do": "run", "case": …, "iterations": n}              → {"seconds": s}
{"do": "close", "case": …}                             → {"ok": true}

With the argument `processor` the seconds are the process's processor time instead of the wall clock's. A failure answers {"error": "…"} and leaves the process usable. Imports and the making of models and data are never
part of the seconds.
"""

import json
import sys
import time


def serve(kinds):
    """kinds: name → function of the settings, giving a function that does one iteration."""
    answers = sys.stdout
    sys.stdout = sys.stderr
    cases = {}
    now = time.process_time if sys.argv[1:] == ["processor"] else time.perf_counter

    def handle(request):
        name = request["case"]
        if request["do"] == "open":
            cases[name] = kinds[request["kind"]](request["settings"])
            return {"ok": True}
        if request["do"] == "close":
            cases.pop(name, None)
            return {"ok": True}
        step = cases[name]
        start = now()
        for _ in range(request["iterations"]):
            step()
        return {"seconds": now() - start}

    for line in sys.stdin:
        try:
            answer = handle(json.loads(line))
        except Exception as error:  # answered, so that one failing case does not end the others
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
