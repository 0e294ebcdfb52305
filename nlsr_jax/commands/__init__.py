"""The verbs of the user, absl mains behind the console command ``nlsr``."""
