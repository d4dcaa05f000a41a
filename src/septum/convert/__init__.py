"""Write masks of any form as label images."""
