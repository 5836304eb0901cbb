"""Speed against a plain reference path."""
