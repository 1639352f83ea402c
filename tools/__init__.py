"""Tools for the development of the project: installation, generated documents."""
