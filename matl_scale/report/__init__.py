"""`matl-report`: how one run fares task by task, how runs differ beyond noise, and a page of it to send to a colleague.

It reads run folders only (`matl_scale.runs`), so it needs neither the data nor a GPU.
"""
