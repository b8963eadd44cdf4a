"""The documentation as a site: the repository's pages, and reference pages made from the code."""
