"""Re-ranking: scored hundreds (`types.Scored`) > one slate under rules (`types.Slate`)."""
