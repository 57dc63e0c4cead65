"""What the routes of every API use: the application's parts, a body in the OpenAPI, answers in JSON."""
