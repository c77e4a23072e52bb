"""Everything that is deployed or composed, and the only folder that may import modal.

It composes the jobs package for where it runs: on Modal, or (`local`) on one machine. Import files by name, as
`from app.local.main import main`; this file imports nothing.
"""
