"""What the gateway adds: time, memory, and deviation from its goals.

python -m benchmarks.gateway [--full] [--only overhead,streaming,…] [--json]

Each part is also a command of its own: ``python -m benchmarks.gateway.overhead --help``.
"""
