"""The one gate before everything that the dashboard serves: pages, media, uploads and the WebSocket.

``middleware`` is the gate itself and says in which order it asks; ``origins`` knows by which names the
dashboard may be called, ``uploads`` what may be uploaded, ``headers`` what browsers are told. ``dashboard``
puts the gate before Streamlit; an HTTP API can be one more route behind it.
"""
