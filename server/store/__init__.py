"""The store: tables and every query, the job queue, what is redacted, erased, imported and exported.

Imports neither fastapi nor torch: the server, the training and the command line all use it.
"""
