"""What a caller hears who asks for a route that is not there: which ones are."""

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

_OTHER_MODALITIES = ("/embeddings", "/completions")


def missing_route(app: FastAPI, path: str) -> str:
    """A sentence for a 404. For a route of the API that another kind of model would have, it
    begins with the sentence that the API's reference gives. The path is not repeated."""
    if path.endswith(_OTHER_MODALITIES):
        reason = (
            "Modality not supported by the model. Check the documentation of the model to see "
            "which routes are available"
        )
    else:
        reason = "there is no such route"
    return f"{reason}. There are: {', '.join(_routes(app))}"


def _routes(app: FastAPI) -> list[str]:
    routes = {
        # {model:path} is how the framework is told that a name may have slashes.
        (str(context.path).replace(":path", ""), method)
        for context in iter_route_contexts(app.routes)
        for method in context.methods or ()
        if method != "HEAD"
    }
    return [f"{method} {path}" for path, method in sorted(routes)]
