"""Everything that is deployed or composed, and the only folder that may import modal.

It wires the jobs package to a place: `local` to one machine. Import files by name, as
`from app.local.main import main`; this file imports nothing.
"""
