"""The sealed folder that serves: manifest, compiled networks, publish, switch."""
