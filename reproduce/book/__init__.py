"""The book: the documents, the executed notebooks and the API as pages that need no kernel and no network."""
