"""The same server on Ray Serve: engines as replicas on many machines, the HTTP application in front
of them. The one place that imports ray, an extra; nothing here is imported without `cluster`.

    HTTP ─▶ ingress.py ─▶ ray_engine.py ─ run() ──────────────▶ engine_replica.py ─▶ AsyncEngine
                              ▲   │ chooses: request_router.py    │
                              │   └─────────── fleet.py           │
                              └── outputs(): a batch per step ◀───┘
"""
