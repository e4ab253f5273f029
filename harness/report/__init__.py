"""What people read: boards, studies, pictures."""
