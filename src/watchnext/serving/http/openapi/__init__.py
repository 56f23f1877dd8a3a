"""The app's routes and models > the OpenAPI document with words, examples and keys > the page /docs."""
