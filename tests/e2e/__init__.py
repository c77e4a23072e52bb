"""The product as people meet it: the demo, one machine, a browser, clients, the documents' commands."""
